"""What this machine knows already: read from files like the real ones, below a folder that stands for the root."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probes.known import ceph, initiator, libvirt, mounts, proxmox, ssh_config
from probes.known.find import find
from probes.known.found import Found
from probes.known.root import Root
from tests.known.conftest import Write


def shown(found: list[Found]) -> list[tuple[str, str]]:
    """Titles and locations, as a person would see them."""
    return [(one.title, str(one.location)) for one in found]


def test_a_machine_that_knows_nothing_finds_nothing(root: Root) -> None:
    assert find(root) == []


# Proxmox

STORAGE = """\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup

rbd: ceph-ext
\tcontent images
\tmonhost 192.0.2.1 192.0.2.2;[2001:db8::3]
\tpool vms
\tusername farboot

rbd: ceph-own
\tpool rbd
\tnamespace tenants
\tkrbd 1

nfs: nas
\texport /vol1/pve
\tpath /mnt/pve/nas
\tserver 192.0.2.9

iscsi: san
\tportal 192.0.2.7:3261
\ttarget iqn.2001-04.org.example:san

iscsidirect: san2
\tportal 2001:db8::7
\ttarget iqn.2001-04.org.example:two

glusterfs: gl
\tserver gl1
\tserver2 gl2
\tvolume gv0

cifs: win
\tserver w
\tshare s

pbs: backups
\tserver b
\tdatastore d

nfs: off
\texport /x
\tserver 192.0.2.10
\tdisable

nfs: elsewhere
\texport /x
\tserver 192.0.2.11
\tnodes pve2,pve3

lvmthin: local-lvm
\tthinpool data
\tvgname pve
"""


def test_proxmox_storages_are_places_where_they_can_be_listed(write: Write, root: Root) -> None:
    write("/etc/hostname", "pve1.example.org\n")
    write("/etc/pve/storage.cfg", STORAGE)
    write("/etc/pve/priv/ceph/ceph-ext.keyring", "[client.farboot]\n")
    assert shown(proxmox.find(root)) == [
        ("local", "/var/lib/vz/"),
        (
            "ceph-ext",
            r"rbd:vms:id=farboot:mon_host=192.0.2.1,192.0.2.2,[2001\:db8\:\:3]"
            ":keyring=/etc/pve/priv/ceph/ceph-ext.keyring",
        ),
        ("ceph-own", "rbd:rbd/tenants/:id=admin:conf=/etc/pve/ceph.conf"),
        ("nas", "nfs://192.0.2.9/vol1/pve/"),
        ("san", "iscsi://192.0.2.7:3261/iqn.2001-04.org.example:san/"),
        ("san2", "iscsi://[2001:db8::7]/iqn.2001-04.org.example:two/"),
        ("gl", "gluster://gl1/gv0/"),
    ]


def test_a_storage_for_certain_nodes_is_there_on_those(write: Write, root: Root) -> None:
    write("/etc/hostname", "pve2\n")
    write("/etc/pve/storage.cfg", STORAGE)
    assert "elsewhere" in [title for title, _ in shown(proxmox.find(root))]


# libvirt


@pytest.mark.parametrize(
    ("pool", "location"),
    [
        (
            "<pool type='rbd'><name>p</name><source><name>vms</name><host name='192.0.2.1' port='6789'/>"
            "<auth type='ceph' username='libvirt'><secret uuid='8c11'/></auth></source></pool>",
            r"rbd:vms:id=libvirt:mon_host=192.0.2.1\:6789",
        ),
        (
            "<pool type='netfs'><name>p</name><source><host name='nas'/><dir path='/export/vm'/>"
            "<format type='nfs'/></source><target><path>/mnt</path></target></pool>",
            "nfs://nas/export/vm/",
        ),
        (
            "<pool type='netfs'><name>p</name><source><host name='g'/><dir path='/v'/><format type='glusterfs'/>"
            "</source></pool>",
            "gluster://g/v/",
        ),
        (
            "<pool type='iscsi-direct'><name>p</name><source><host name='san' port='3261'/>"
            "<device path='iqn.2001:x'/><auth type='chap' username='bob'/></source></pool>",
            "iscsi://bob@san:3261/iqn.2001:x/",
        ),
        (
            "<pool type='gluster'><name>p</name><source><name>v</name><host name='g'/>"
            "<dir path='/sub'/></source></pool>",
            "gluster://g/v/sub/",
        ),
        (
            "<pool type='sheepdog'><name>p</name><source><host name='s' port='7000'/><name>x</name></source></pool>",
            "sheepdog://s/",
        ),
        (
            "<pool type='dir'><name>p</name><target><path>/var/lib/libvirt/images</path></target></pool>",
            "/var/lib/libvirt/images/",
        ),
    ],
)
def test_a_libvirt_pool_is_a_place(write: Write, root: Root, pool: str, location: str) -> None:
    write("/etc/libvirt/storage/p.xml", pool)
    assert shown(libvirt.find(root)) == [("p", location)]


@pytest.mark.parametrize(
    "pool",
    [
        "<pool type='netfs'><name>p</name><source><host name='w'/><dir path='/'/><format type='cifs'/></source></pool>",
        "<pool type='logical'><name>p</name><target><path>/dev/vg</path></target></pool>",
        "<pool type='rbd'><name>p</name></pool>",
        "<pool type='iscsi'><name>p</name><source><host name='bad host'/><device path='iqn.x'/></source></pool>",
        "<pool type='dir'><name>p",
        "<!DOCTYPE pool [<!ENTITY a 'b'>]><pool type='dir'><name>&a;</name><target><path>/x</path></target></pool>",
        "",
    ],
)
def test_what_is_no_place_or_no_pool_is_left_out(write: Write, root: Root, pool: str) -> None:
    write("/etc/libvirt/storage/p.xml", pool)
    assert libvirt.find(root) == []


# Ceph


def test_clusters_and_the_users_that_have_keyrings(write: Write, root: Root) -> None:
    write("/etc/ceph/ceph.conf", "[global]\nfsid = 1\nmon_host = 192.0.2.1\n")
    write("/etc/ceph/ceph.client.admin.keyring", "")
    write("/etc/ceph/ceph.client.libvirt.keyring", "")
    write("/etc/ceph/backup.conf", "[global]\nmon host = 192.0.2.2\n")
    write("/etc/ceph/rbdmap.conf", "# nothing about a cluster\n")
    assert shown(ceph.find(root)) == [
        ("backup", "rbd::conf=/etc/ceph/backup.conf"),
        ("ceph", "rbd::conf=/etc/ceph/ceph.conf"),
        ("ceph, libvirt", "rbd::conf=/etc/ceph/ceph.conf:id=libvirt"),
    ]


def test_a_configuration_that_is_a_link_to_another_comes_once(write: Write, root: Root) -> None:
    real = write("/etc/pve/ceph.conf", "[global]\nfsid = 1\n")
    (real.parents[1] / "ceph").mkdir()
    (real.parents[1] / "ceph" / "ceph.conf").symlink_to(real)
    assert [one.origin for one in ceph.find(root)] == ["/etc/ceph/ceph.conf"]


# ~/.ssh/config


def test_hosts_of_the_ssh_configuration_but_for_patterns_and_forges(write: Write, root: Root) -> None:
    config = (
        'Host web db01 *.example.org !not\n  User root\nInclude conf.d/*\nHost="quoted"\nHost github.com\n User git\n'
    )
    write("/root/.ssh/config", config + "Match host x\n")
    write("/root/.ssh/conf.d/a", "Host inner\n\tHostName 192.0.2.1\n# Host commented\n")
    assert shown(ssh_config.find(root)) == [
        ("web", "ssh://web/"),
        ("db01", "ssh://db01/"),
        ("inner", "ssh://inner/"),
        ("quoted", "ssh://quoted/"),
    ]


def test_a_configuration_that_includes_itself_ends(write: Write, root: Root) -> None:
    write("/root/.ssh/config", "Host a\nInclude config\n")
    assert shown(ssh_config.find(root)) == [("a", "ssh://a/")]


# NFS


def test_nfs_exports_of_fstab_and_of_mounts(write: Write, root: Root) -> None:
    write(
        "/etc/fstab",
        "nas:/vol\\040one /mnt nfs defaults 0 0\n[2001:db8::1]:/y /z nfs4 d\n/dev/sda / ext4\n#a:/b /c nfs\n",
    )
    mounted = "36 35 0:55 / /mnt/nas rw,relatime shared:1 - nfs4 192.0.2.9:/vol1 rw,vers=4.2,addr=192.0.2.9\n"
    write("/proc/self/mountinfo", mounted + "37 35 0:56 /sub /mnt/b rw - nfs nas2:/e rw\n")
    assert [(str(one.location), one.origin) for one in mounts.find(root)] == [
        ("nfs://nas/vol%20one/", "/etc/fstab"),
        ("nfs://[2001:db8::1]/y/", "/etc/fstab"),
        ("nfs://192.0.2.9/vol1/", "mounted"),
        ("nfs://nas2/e/sub/", "mounted"),
    ]


# iSCSI


def test_targets_of_the_initiators_database_without_their_passwords(write: Write, root: Root) -> None:
    record = "node.session.auth.username = bob\nnode.session.auth.password = hunter2\n"
    write("/etc/iscsi/nodes/iqn.2001-04.org:x/192.0.2.7,3260,1/default", record)
    write("/var/lib/iscsi/nodes/iqn.2001-04.org:y/2001:db8::7,3261,1", "")
    found = initiator.find(root)
    assert shown(found) == [
        ("iqn.2001-04.org:x", "iscsi://bob@192.0.2.7/iqn.2001-04.org:x/"),
        ("iqn.2001-04.org:y", "iscsi://[2001:db8::7]:3261/iqn.2001-04.org:y/"),
    ]
    assert "hunter2" not in repr(found)


# Files as they should not be


def test_the_same_place_of_two_files_comes_once(write: Write, root: Root) -> None:
    write("/etc/pve/storage.cfg", "nfs: nas\n\texport /e\n\tserver n\n")
    write("/etc/fstab", "n:/e /mnt nfs defaults\n")
    assert [one.origin for one in find(root) if one.location.scheme == "nfs"] == ["Proxmox storage.cfg"]


def test_a_fifo_where_a_file_should_be_is_not_waited_for(root: Root, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    os.mkfifo(tmp_path / "etc" / "fstab")
    assert find(root) == []


def test_a_folder_where_a_file_should_be_is_nothing(root: Root, tmp_path: Path) -> None:
    (tmp_path / "etc" / "fstab").mkdir(parents=True)
    (tmp_path / "root" / ".ssh" / "config").mkdir(parents=True)
    assert find(root) == []


def test_of_a_huge_file_only_the_beginning_is_read(write: Write, root: Root) -> None:
    write("/etc/fstab", "a:/b /c nfs d\n" + "#" * (5 << 20) + "\nz:/y /x nfs d\n")
    assert [str(one.location) for one in find(root)] == ["nfs://a/b/"]


_FILES = ("/etc/fstab", "/etc/pve/storage.cfg", "/root/.ssh/config", "/etc/ceph/ceph.conf", "/proc/self/mountinfo",
          "/etc/libvirt/storage/p.xml", "/etc/pve/nodes/n/qemu-server/100.conf", "/etc/libvirt/qemu/a.xml")  # fmt: skip
_WORDS = [
    "nfs", "nfs4", " ", "\t", "\n", "rbd: ", "monhost ", "Host ", "Include ", "h:/e", "[::1]:/", "[global]", "fsid=",
    "=", "mon_host = ", "<pool type='dir'>", "<name>", "</name>", "scsi0: ", "local:1/x", "\x1b[31m", "\0", "é", ",",
]  # fmt: skip


@given(texts=st.lists(st.lists(st.sampled_from(_WORDS), max_size=30).map("".join), min_size=len(_FILES), max_size=8))
def test_no_text_in_any_file_is_an_error(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    base = tmp_path_factory.mktemp("root")
    for path, text in zip(_FILES, texts, strict=True):
        whole = base / path.lstrip("/")
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(text)
    for one in find(Root(str(base), "/root")):
        assert str(one.location).isprintable()
