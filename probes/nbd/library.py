"""libnbd, as far as Farboot uses it, by ctypes: its API and ABI are promised to stay (libnbd(3)).

The Python module of the same project is not used. It is outside of a virtual environment's reach, PyPI's `nbd` is
something else, it cannot pass on a name that is not UTF-8 (it prints a traceback instead), and it keeps the
interpreter's lock while a host's name is looked up. Everything here lets go of that lock.
"""

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any

SONAME = "libnbd.so.0"

READ, WRITE = 1, 2
"""Bits of `nbd_aio_get_direction`: what the connection waits for."""

TLS_REQUIRED = 2
MINIMUM, MAXIMUM = 0, 2
"""What `nbd_get_block_size` is asked for."""

Listed = CFUNCTYPE(c_int, c_void_p, c_char_p, c_char_p)
Completed = CFUNCTYPE(c_int, c_void_p, POINTER(c_int))


class ListCallback(ctypes.Structure):
    """`nbd_list_callback`: passed by value; `free` stays NULL."""

    _fields_ = (("callback", Listed), ("user_data", c_void_p), ("free", c_void_p))


class CompletionCallback(ctypes.Structure):
    """`nbd_completion_callback`."""

    _fields_ = (("callback", Completed), ("user_data", c_void_p), ("free", c_void_p))


NOTHING_TO_CALL = CompletionCallback()

_handle = c_void_p
_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # what it returns, then what it takes
    "create": (_handle,),
    "close": (None, _handle),
    "get_error": (c_char_p,),
    "get_errno": (c_int,),
    "supports_tls": (c_int, _handle),
    "set_opt_mode": (c_int, _handle, c_bool),
    "set_export_name": (c_int, _handle, c_char_p),
    "set_tls": (c_int, _handle, c_int),
    "set_tls_certificates": (c_int, _handle, c_char_p),
    "set_tls_verify_peer": (c_int, _handle, c_bool),
    "set_tls_username": (c_int, _handle, c_char_p),
    "set_tls_psk_file": (c_int, _handle, c_char_p),
    "aio_connect_tcp": (c_int, _handle, c_char_p, c_char_p),
    "aio_connect_unix": (c_int, _handle, c_char_p),
    "aio_opt_list": (c_int, _handle, ListCallback, CompletionCallback),
    "aio_opt_info": (c_int, _handle, CompletionCallback),
    "aio_opt_go": (c_int, _handle, CompletionCallback),
    "aio_opt_abort": (c_int, _handle),
    "aio_pread": (c_int64, _handle, c_void_p, c_size_t, c_uint64, CompletionCallback, c_uint32),
    "aio_pwrite": (c_int64, _handle, c_void_p, c_size_t, c_uint64, CompletionCallback, c_uint32),
    "aio_flush": (c_int64, _handle, CompletionCallback, c_uint32),
    "aio_disconnect": (c_int, _handle, c_uint32),
    "aio_get_fd": (c_int, _handle),
    "aio_get_direction": (c_uint, _handle),
    "aio_notify_read": (c_int, _handle),
    "aio_notify_write": (c_int, _handle),
    "aio_is_dead": (c_int, _handle),
    "aio_is_closed": (c_int, _handle),
    "aio_is_negotiating": (c_int, _handle),
    "aio_is_ready": (c_int, _handle),
    "aio_is_processing": (c_int, _handle),
    "aio_peek_command_completed": (c_int64, _handle),
    "aio_command_completed": (c_int, _handle, c_uint64),
    "get_size": (c_int64, _handle),
    "is_read_only": (c_int, _handle),
    "can_multi_conn": (c_int, _handle),
    "can_flush": (c_int, _handle),
    "get_block_size": (c_int64, _handle, c_int),
}


class Failed(Exception):
    """A call that libnbd refused: its errno (0 where it has none) and its words."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(words)
        self.number = number
        self.words = words


class Library:
    """The shared library. Raises OSError where it is not installed, AttributeError where it is too old."""

    def __init__(self) -> None:
        library = ctypes.CDLL(SONAME)
        self._functions: dict[str, Any] = {}
        for name, (returns, *takes) in _FUNCTIONS.items():
            function = getattr(library, f"nbd_{name}")
            function.restype, function.argtypes = returns, takes
            self._functions[name] = function

    def create(self) -> "Handle":
        """A new handle, connected to nothing."""
        handle = self._functions["create"]()
        if not handle:
            raise self.failure()
        return Handle(self, handle)

    def failure(self) -> Failed:
        """The last failure of a call in this thread."""
        words = self._functions["get_error"]() or b"it says no reason"
        return Failed(self._functions["get_errno"](), words.decode("utf-8", "replace"))

    def call(self, name: str, *arguments: Any) -> int:
        """Call `nbd_NAME`. Raises Failed for -1."""
        result: int = self._functions[name](*arguments)
        if result == -1:
            raise self.failure()
        return result

    def free(self, handle: int) -> None:
        """Close a handle."""
        self._functions["close"](handle)


class Handle:
    """One connection's `struct nbd_handle`, for one thread: `handle("get_size")` is `nbd_get_size(handle)`."""

    def __init__(self, library: Library, handle: int) -> None:
        self._library = library
        self._handle: int | None = handle

    def __call__(self, name: str, *arguments: Any) -> int:
        """Call `nbd_NAME` with this handle first. Raises Failed for -1."""
        return self._library.call(name, self._handle, *arguments)

    def failure(self) -> Failed:
        """The last failure of a call in this thread."""
        return self._library.failure()

    def close(self) -> None:
        """Close the connection and free everything: buffers in use may be let go of now."""
        handle, self._handle = self._handle, None
        if handle:
            self._library.free(handle)
