"""The URLs that people type for QEMU's network drivers, made from the drivers' nodes.

As block/nfs.c, iscsi.c, ssh.c, nbd.c and gluster.c take them apart. Each function gives the URL, empty where the driver
has none for such a node, and the options of the node that it tells.
"""

import re
from collections.abc import Callable, Mapping
from urllib.parse import quote, urlencode

from probes.attachment import Node

_NFS_OPTIONS = {"user": "uid", "group": "gid"}
_IQN = re.compile(r"[A-Za-z0-9.:-]+")

Told = tuple[str, set[str]]
_NOTHING: Told = ("", set())


def _nfs(node: Node) -> Told:
    server = _mapping(node.get("server"))
    options = {typed: str(node[name]) for name, typed in _NFS_OPTIONS.items() if name in node}
    query = f"?{urlencode(options)}" if options else ""
    url = f"nfs://{_host(server.get('host'))}{_path(node.get('path'))}{query}"
    return url, {"server", "path", *_NFS_OPTIONS}


def _iscsi(node: Node) -> Told:
    target, lun = str(node.get("target", "")), node.get("lun", 0)
    if node.get("transport") != "tcp" or not _IQN.fullmatch(target):
        return _NOTHING
    return f"iscsi://{node.get('portal')}/{target}/{lun}", {"transport", "portal", "target", "lun"}


def _ssh(node: Node) -> Told:
    server, check = _mapping(node.get("server")), _mapping(node.get("host-key-check"))
    user = f"{quote(str(node['user']), safe='')}@" if "user" in node else ""
    query = ""
    if check.get("mode") == "hash":
        query = f"?host_key_check={check.get('type')}:{check.get('hash')}"
    elif check and check.get("mode") != "known_hosts":
        return _NOTHING
    url = f"ssh://{user}{_host(server.get('host'))}{_port(server.get('port'), '22')}{_path(node.get('path'))}{query}"
    return url, {"server", "path", "user", "host-key-check"}


def _nbd(node: Node) -> Told:
    server, export = _mapping(node.get("server")), str(node.get("export", ""))
    if export.startswith("/"):  # QEMU takes all slashes before a name away
        return _NOTHING
    path, taken = "/" + quote(export), {"server", "export"}
    if server.get("type") == "unix":
        return f"nbd+unix://{path}?socket={quote(str(server.get('path')))}", taken
    if server.get("type") != "inet":
        return _NOTHING
    return f"nbd://{_host(server.get('host'))}{_port(server.get('port'), '10809')}{path}", taken


def _gluster(node: Node) -> Told:
    servers = node.get("server")
    server = _mapping(servers[0]) if isinstance(servers, (list, tuple)) and len(servers) == 1 else {}
    if server.get("type") not in {"inet", "tcp"}:
        return _NOTHING
    host, port = _host(server.get("host")), _port(server.get("port"), "24007")
    path = f"/{quote(str(node.get('volume')))}{_path(node.get('path'))}"
    return f"gluster://{host}{port}{path}", {"server", "volume", "path"}


URLS: Mapping[str, Callable[[Node], Told]] = {
    "nfs": _nfs,
    "iscsi": _iscsi,
    "ssh": _ssh,
    "nbd": _nbd,
    "gluster": _gluster,
}
"""By driver."""


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _host(host: object) -> str:
    text = str(host)
    return f"[{text}]" if ":" in text else text


def _port(port: object, usual: str) -> str:
    return "" if port is None or str(port) == usual else f":{port}"


def _path(path: object) -> str:
    """The path, percent-encoded: QEMU decodes it. Its bytes are the file system's, whatever they are."""
    return "/" + quote(str(path).encode("utf-8", "surrogateescape")).lstrip("/")
