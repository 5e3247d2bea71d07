"""libvirt's storage pools (https://libvirt.org/formatstorage.html), and the XML that it keeps them in."""

from xml.etree import ElementTree

from probes.known.found import Found, folder, rbd, url
from probes.known.root import Root
from probes.location import Location, rbd_path, split_rbd

FOLDERS = ("/etc/libvirt/storage", "~/.config/libvirt/storage")
ORIGIN = "libvirt pools"

Element = ElementTree.Element


def document(text: str) -> Element | None:
    """The root element of a document; None for what is none. One that declares entities is none of libvirt's."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    try:
        return ElementTree.fromstring(text)  # noqa: S314  # without declarations there is nothing to expand
    except (ElementTree.ParseError, ValueError):  # ValueError: surrogates of undecodable bytes
        return None


def attribute(element: Element | None, path: str, name: str) -> str:
    """An attribute of what lies at `path` below an element; empty where there is none."""
    found = element.find(path) if element is not None else None
    return (found.get(name) or "").strip() if found is not None else ""


def read_pools(root: Root) -> dict[str, Element]:
    """The pools' definitions by name."""
    found: dict[str, Element] = {}
    for folder_ in FOLDERS:
        for path in root.files(f"{folder_}/*.xml"):
            pool = document(root.read(path))
            if pool is not None and pool.tag == "pool":
                found.setdefault((pool.findtext("name") or "").strip(), pool)
    return {name: pool for name, pool in found.items() if name}


def find(root: Root) -> list[Found]:
    """The pools that can be looked at from here."""
    places = ((name, place_of(pool)) for name, pool in read_pools(root).items())
    return [Found(name, place, ORIGIN) for name, place in places if place is not None]


def place_of(pool: Element) -> Location | None:
    """Where a pool's volumes are listed; None for kinds that are no place of their own (logical, disk …)."""
    source = pool.find("source")
    name = ((source.findtext("name") if source is not None else "") or "").strip().strip("/")
    host, port = attribute(source, "host", "name"), attribute(source, "host", "port")
    directory = attribute(source, "dir", "path").strip("/")
    match pool.get("type"):
        case "rbd" if name:
            names = split_rbd(name)[:2]
            return rbd(rbd_path(*names, namespace=len(names) == 2), rbd_options(source))
        case "netfs" if attribute(source, "format", "type") == "glusterfs":
            return url("gluster", host, f"{directory}/")
        case "netfs" if attribute(source, "format", "type") in {"", "auto", "nfs"}:
            return url("nfs", host, f"{directory}/")
        case "gluster" if name:
            return url("gluster", host, f"{name}/{directory}/" if directory else f"{name}/", port, default_port="24007")
        case "iscsi" | "iscsi-direct":
            target = attribute(source, "device", "path")
            user = attribute(source, "auth", "username")
            return url("iscsi", host, f"{target}/", port, user, default_port="3260") if target else None
        case "sheepdog":
            return url("sheepdog", host, "/", port, default_port="7000")
        case "dir" | "fs":
            return folder((pool.findtext("target/path") or "").strip())
    return None


def rbd_options(source: Element | None) -> dict[str, str]:
    """What rbd: takes after the image, of a pool's or a disk's source. The key is libvirt's own, and stays there."""
    hosts = source.findall("host") if source is not None else []
    monitors = (_monitor(host.get("name") or "", host.get("port") or "") for host in hosts)
    return {
        "id": attribute(source, "auth", "username"),
        "conf": attribute(source, "config", "file"),
        "mon_host": ",".join(monitor for monitor in monitors if monitor),
    }


def _monitor(host: str, port: str) -> str:
    host = host.strip("[]")
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if host and port else host
