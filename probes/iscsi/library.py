"""libiscsi by ctypes: the functions and structures that a session needs (iscsi/iscsi.h, iscsi/scsi-lowlevel.h).

Only the asynchronous functions: the others wait in the library, where nothing ends them. `ctypes` lets go of the
interpreter around each call. Of `struct scsi_task` only the first fields are declared, which have kept their places
from 1.11 to 1.20; tasks are made and freed by the library.
"""

import ctypes as c

from probes.errors import MissingClient
from probes.registry import system_of

DISCOVERY_SESSION, NORMAL_SESSION = 1, 2
NO_TRANSFER, FROM_TARGET, TO_TARGET = 0, 1, 2
HEADER_DIGESTS = {"none": 0, "none-crc32c": 1, "crc32c-none": 2, "crc32c": 3}

STATUS_REDIRECT = 0x101
STATUS_CANCELLED = 0x0F000000
STATUS_ERROR = 0x0F000001
STATUS_TIMEOUT = 0x0F000002


class Portal(c.Structure):
    """`struct iscsi_target_portal`: "10.0.0.1:3260,1"."""


Portal._fields_ = [("next", c.POINTER(Portal)), ("portal", c.c_char_p)]


class Target(c.Structure):
    """`struct iscsi_discovery_address`."""


Target._fields_ = [("next", c.POINTER(Target)), ("name", c.c_char_p), ("portals", c.POINTER(Portal))]


class Task(c.Structure):
    """The beginning of `struct scsi_task`, up to the sense data."""

    _fields_ = (
        ("status", c.c_int),
        ("cdb_size", c.c_int),
        ("xfer_dir", c.c_int),
        ("expxferlen", c.c_int),
        ("cdb", c.c_ubyte * 16),
        ("residual_status", c.c_int),
        ("residual", c.c_size_t),
        ("sense_type", c.c_ubyte),
        ("sense_key", c.c_int),
        ("sense_code", c.c_int),
    )


UNDERFLOW = 1
"""`residual_status` where fewer bytes came than were asked for."""

Callback = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_void_p, c.c_void_p)
"""`iscsi_command_cb`: context, status, what came, our number."""


class Library:
    """The functions of one loaded libiscsi, with their types."""

    def __init__(self, library: c.CDLL) -> None:
        def function(name: str, result: object, *arguments: object) -> "c._NamedFuncPointer":
            found = library[name]
            found.restype, found.argtypes = result, arguments  # type: ignore[assignment]  # ctypes takes any of its types
            return found

        context, task = c.c_void_p, c.POINTER(Task)
        self.create_context = function("iscsi_create_context", context, c.c_char_p)
        self.destroy_context = function("iscsi_destroy_context", c.c_int, context)
        self.set_session_type = function("iscsi_set_session_type", c.c_int, context, c.c_int)
        self.set_targetname = function("iscsi_set_targetname", c.c_int, context, c.c_char_p)
        self.set_header_digest = function("iscsi_set_header_digest", c.c_int, context, c.c_int)
        self.set_isid_random = function("iscsi_set_isid_random", c.c_int, context, c.c_uint32, c.c_uint32)
        self.set_noautoreconnect = function("iscsi_set_noautoreconnect", None, context, c.c_int)
        chap = (context, c.c_char_p, c.c_char_p)
        self.set_chap = function("iscsi_set_initiator_username_pwd", c.c_int, *chap)
        self.set_target_chap = function("iscsi_set_target_username_pwd", c.c_int, *chap)
        self.connect = function("iscsi_connect_async", c.c_int, context, c.c_char_p, Callback, c.c_void_p)
        self.login = function("iscsi_login_async", c.c_int, context, Callback, c.c_void_p)
        self.logout = function("iscsi_logout_async", c.c_int, context, Callback, c.c_void_p)
        self.discover = function("iscsi_discovery_async", c.c_int, context, Callback, c.c_void_p)
        command = (context, c.c_int, task, Callback, c.c_void_p, c.c_void_p)
        self.command = function("iscsi_scsi_command_async", c.c_int, *command)
        self.error = function("iscsi_get_error", c.c_char_p, context)
        self.target_address = function("iscsi_get_target_address", c.c_char_p, context)
        self.fd = function("iscsi_get_fd", c.c_int, context)
        self.which_events = function("iscsi_which_events", c.c_int, context)
        self.service = function("iscsi_service", c.c_int, context, c.c_int)
        self.create_task = function("scsi_create_task", task, c.c_int, c.c_char_p, c.c_int, c.c_int)
        self.free_task = function("scsi_free_scsi_task", None, task)
        buffer = (task, c.c_int, c.c_void_p)
        self.add_in = function("scsi_task_add_data_in_buffer", c.c_int, *buffer)
        self.add_out = function("scsi_task_add_data_out_buffer", c.c_int, *buffer)


def load() -> Library:
    """Load libiscsi. Raises MissingClient."""
    client = system_of("iscsi").clients[0]
    for soname in client.sonames:
        try:
            return Library(c.CDLL(soname))
        except (OSError, AttributeError):  # not there, or not with what we need
            continue
    raise MissingClient("load", "libiscsi", "the library is not installed", client.remedy)
