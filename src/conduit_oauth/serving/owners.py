"""Users, groups and modes of files, as an operator writes them."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigurationError

# Users and groups have 32 bits, of which -1 stands for none (chown(2)).
_MOST_IDENTITIES = (1 << 32) - 1


def mode_of(said: str, field: str) -> int:
    """The mode that is written like "0640". Raises `ConfigurationError` naming `field`."""
    try:
        mode = int(said, 8)
    except ValueError:
        mode = -1
    if not 0 < mode <= 0o777 or mode & 0o007:
        raise ConfigurationError(field, f"{said!r} is no mode", 'Write it like "0640"; others get nothing.')
    return mode


def user_of(name: str | None, field: str) -> int:
    """The number of a user, by name or number; -1 for None. Raises `ConfigurationError` naming `field`."""
    import pwd

    return _identity(name, lambda user: pwd.getpwnam(user).pw_uid, field)


def group_of(name: str | None, field: str) -> int:
    """The number of a group, by name or number; -1 for None. Raises `ConfigurationError` naming `field`."""
    import grp

    return _identity(name, lambda group: grp.getgrnam(group).gr_gid, field)


def _identity(name: str | None, lookup: Callable[[str], int], field: str) -> int:
    if name is None:
        return -1
    try:
        number = int(name) if name.isdecimal() else lookup(name)
    except (KeyError, ValueError):  # no such name; one with a NUL
        number = -1
    if not 0 <= number < _MOST_IDENTITIES:
        raise ConfigurationError(field, f"{name!r} is not known on this machine", "Name one that is.")
    return number
