"""The Hugging Face hub: whether it can be reached at all, asked once."""

from __future__ import annotations

import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies


@cache
def look_for_the_hub() -> None:
    """Go offline if the hub's name does not resolve: its client would retry every file it asks for, 23 s each.

    Files in the local cache are found either way. Behind a proxy the name need not resolve here: nothing is changed.
    """
    import datasets
    import huggingface_hub.constants as hub

    if hub.HF_HUB_OFFLINE or getproxies():
        return
    try:
        socket.getaddrinfo(urlsplit(hub.ENDPOINT).hostname, 443)
    except OSError:
        hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
