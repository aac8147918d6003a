"""Model-written code, run in a box that it cannot leave, judged from outside.

box         starts programs in a box: bubblewrap, or namespaces, Landlock and seccomp by the kernel's own calls
confine     the box's inside: the launcher that shuts the door behind itself and becomes the program
peers       tests in one box talk to the code under test in another
unit_tests  the verifier
"""
