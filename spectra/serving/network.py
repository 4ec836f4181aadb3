"""Where a server listens, and the token that others than this machine need."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import InputError
from spectra.settings import setting


@dataclass(frozen=True)
class NetworkSettings:
    """Where a server listens, and where its token is."""

    host: str = setting("127.0.0.1", "Address to listen at; all but this machine's own take a token.", panel="Network")
    port: int = setting(8000, "Port to listen at; 0 for any that is free.", least=0, most=65535, panel="Network")
    token_file: Path | None = setting(
        None,
        "File with the token that every request must bear; by default the variable SPECTRA_TOKEN has it.",
        panel="Network",
    )

    @property
    def needs_token(self) -> bool:
        """Whether others than this machine can reach the address."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True


def read_token(settings: NetworkSettings, environment: str) -> str:
    """The token of a server, empty where it takes none.

    Args:
        environment: what the variable SPECTRA_TOKEN holds.

    Raises:
        InputError: the file cannot be read or is empty, or an address takes a token and none is given.
    """
    token = environment.strip()
    if settings.token_file is not None:
        try:
            token = settings.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{settings.token_file}: expected a text file with a token ({error})") from error
        if not token:
            raise InputError(f"{settings.token_file}: expected a token, the file is empty")
    if settings.needs_token and not token:
        raise InputError(
            f"{settings.host} can be reached by others: give a token by --token-file FILE or the variable "
            "SPECTRA_TOKEN, or serve this machine alone with --host 127.0.0.1"
        )
    return token


def listen(settings: NetworkSettings) -> socket.socket:
    """A socket that listens at the address.

    Raises:
        InputError: the address is taken, or not this machine's.
    """
    host, port = settings.host, settings.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as error:
        raise InputError(f"cannot listen at {host}, port {port} ({error.strerror}); choose another --port") from error
    return listening


def address_of(listening: socket.socket) -> str:
    """The address of what listens there, as a browser takes it."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
