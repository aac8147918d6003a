"""What offon measures about behaviour, against worlds where the truth is known.

    python -m studies.validation [--quick] [exactness coverage events trained stress cost effects]

writes docs/validation.md: every number beside its threshold. A section that is not named keeps what it last found.
"""
