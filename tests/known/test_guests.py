"""Whose disk it is: Proxmox's and libvirt's definitions, matched with every way to reach the same disk."""

from pathlib import Path

import pytest

from app.engine import Engine
from app.qemu.options import Options
from probes.attachment import Mode
from probes.known.guests import Owners, owners, stamp
from probes.known.root import Root
from probes.location import Location
from tests.known.conftest import Write


def whose(text: str, root: Root) -> list[str]:
    """Who owns a location, in words."""
    return [str(owner) for owner in owners(Location.parse(text)[0], root)]


@pytest.fixture
def cluster(write: Write) -> None:
    """A Proxmox cluster of two nodes: this one, pve1, on which guest 100 runs and 101 does not."""
    write("/etc/hostname", "pve1\n")
    storages = """\
rbd: ceph
\tmonhost 192.0.2.1,192.0.2.2
\tpool rbd

nfs: nas
\texport /vol1
\tpath /mnt/pve/nas
\tserver 192.0.2.9

lvmthin: local-lvm
\tthinpool data
\tvgname pve

iscsi: san
\tportal 192.0.2.7
\ttarget iqn.2001-04.org:san
"""
    write("/etc/pve/storage.cfg", storages)
    web = """\
#the web server: its description has a colon
boot: order=scsi0
name: web01
ide2: local:iso/debian.iso,media=cdrom
scsi0: ceph:vm-100-disk-0,discard=on,size=32G
scsi1: nas:100/vm-100-disk-1.qcow2,size=3G
scsi2: local-lvm:vm-100-disk-2
virtio3: san:0.0.1.scsi-360014050001,size=2G
unused0: local:100/vm-100-disk-9.raw
sata5: /dev/disk/by-id/ata-disk

[before-upgrade]
name: other
scsi0: ceph:vm-100-disk-old
"""
    write("/etc/pve/nodes/pve1/qemu-server/100.conf", web)
    write(
        "/etc/pve/nodes/pve1/qemu-server/101.conf",
        "name: idle\nvirtio0: file=ceph:base-9-disk-0/vm-101-disk-0,size=1G\n",
    )
    write(
        "/etc/pve/nodes/pve2/qemu-server/200.conf",
        "name: db\nscsi0: ceph:vm-200-disk-0\nscsi1: local-lvm:vm-200-disk-1\n",
    )
    write("/etc/pve/nodes/pve1/lxc/300.conf", "hostname: dns\nrootfs: local-lvm:vm-300-disk-0,size=8G\n")
    write("/run/qemu-server/100.pid", "4711\n")
    write("/run/qemu-server/101.pid", "4712\n")
    write("/proc/4711/comm", "kvm")


RUNS = "Proxmox VM 100 (web01), which runs"


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "location",
    [
        "rbd:rbd/vm-100-disk-0:mon_host=192.0.2.2",
        "rbd:rbd/vm-100-disk-0@snap:mon_host=192.0.2.1",
        "rbd:rbd/vm-100-disk-0:conf=/etc/ceph/unreadable.conf",
        "rbd:rbd/vm-100-disk-0:mon_host=mon.example.org",
        "rbd:rbd/vm-100-disk-old",
        "host_device:/dev/rbd/rbd/vm-100-disk-0",
        "nfs://192.0.2.9/vol1/images/100/vm-100-disk-1.qcow2",
        "nfs://192.0.2.9/vol1/images/100/vm-100-disk-1.qcow2?uid=0",
        "/mnt/pve/nas/images/100/vm-100-disk-1.qcow2",
        "host_device:/dev/pve/vm-100-disk-2",
        "iscsi://192.0.2.7/iqn.2001-04.org:san/1",
        "iscsi://bob@192.0.2.8:3261/iqn.2001-04.org:san/1",
        "host_device:/dev/disk/by-id/scsi-360014050001",
        "/var/lib/vz/images/100/vm-100-disk-9.raw",
        "host_device:/dev/disk/by-id/ata-disk",
    ],
)
def test_a_disk_of_a_running_machine_is_known_whichever_way_it_is_reached(root: Root, location: str) -> None:
    assert whose(location, root) == [RUNS]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    "location",
    [
        "rbd:rbd/vm-100-disk-0:mon_host=198.51.100.1",
        "rbd:rbd/vm-999-disk-0:mon_host=192.0.2.1",
        "rbd:rbd",
        "nfs://192.0.2.10/vol1/images/100/vm-100-disk-1.qcow2",
        "nfs://192.0.2.9/vol1/images/100/",
        "/var/lib/vz/template/iso/debian.iso",
        "host_device:/dev/pve/vm-200-disk-1",
        "iscsi://192.0.2.7/iqn.2001-04.org:san/2",
        "iscsi://192.0.2.7/",
        "host_device:",
        "http://192.0.2.9/vol1/images/100/vm-100-disk-1.qcow2",
    ],
)
def test_what_is_another_thing_is_nobodys(root: Root, location: str) -> None:
    assert whose(location, root) == []


@pytest.mark.usefixtures("cluster")
def test_a_machine_whose_process_is_gone_does_not_run(root: Root) -> None:
    assert whose("rbd:rbd/vm-101-disk-0", root) == ["Proxmox VM 101 (idle), which does not run"]


@pytest.mark.usefixtures("cluster")
def test_a_machine_on_another_node_may_run(root: Root) -> None:
    (owner,) = owners(Location.parse("rbd:rbd/vm-200-disk-0")[0], root)
    assert (owner.running, owner.may_run) == (None, True)
    assert str(owner) == "Proxmox VM 200 (db), which may run on pve2"
    assert owner.note == "VM 200 db's, on pve2"


@pytest.mark.usefixtures("cluster")
def test_a_container_owns_its_volumes_and_runs_while_its_cgroup_is_there(root: Root, tmp_path: Path) -> None:
    assert whose("host_device:/dev/pve/vm-300-disk-0", root) == ["Proxmox CT 300 (dns), which does not run"]
    (tmp_path / "sys/fs/cgroup/lxc/300").mkdir(parents=True)
    assert whose("host_device:/dev/pve/vm-300-disk-0", root) == ["Proxmox CT 300 (dns), which runs"]


@pytest.mark.usefixtures("cluster")
def test_a_row_says_whose_it_is_in_a_few_words(root: Root) -> None:
    (owner,) = owners(Location.parse("rbd:rbd/vm-100-disk-0")[0], root)
    assert owner.note == "VM 100 web01's, running"


def test_a_file_behind_symbolic_links_is_the_same_file(write: Write, root: Root, tmp_path: Path) -> None:
    write("/etc/hostname", "pve1\n")
    write("/etc/pve/nodes/pve1/qemu-server/100.conf", "name: a\nscsi0: /srv/link.raw\n")
    write("/srv/data/real.raw", "")
    (tmp_path / "srv/link.raw").symlink_to("data/real.raw")
    (tmp_path / "mnt").symlink_to("srv/data")
    assert whose("/mnt/real.raw", root) == ["Proxmox VM 100 (a), which does not run"]


def test_a_file_on_an_nfs_mount_is_the_servers_file(write: Write, root: Root) -> None:
    write("/etc/hostname", "pve1\n")
    write("/proc/self/mountinfo", "36 35 0:55 / /mnt/a rw shared:1 - nfs4 nas:/vol rw\n")
    write("/etc/pve/nodes/pve1/qemu-server/100.conf", "name: a\nscsi0: /mnt/a/dir/x.raw\n")
    assert whose("nfs://nas/vol/dir/x.raw", root) == ["Proxmox VM 100 (a), which does not run"]


# libvirt

DOMAIN = """\
<domain type='kvm'><name>web</name><devices>
<disk type='file' device='disk'><source file='/srv/web.qcow2'/>
  <backingStore type='file'><source file='/srv/base.qcow2'/></backingStore></disk>
<disk type='file' device='cdrom'><source file='/srv/cd.iso'/></disk>
<disk type='block' device='disk'><source dev='/dev/vg/web'/></disk>
<disk type='network' device='disk'><source protocol='rbd' name='vms/ns/web'>
  <host name='192.0.2.1' port='6789'/><auth username='libvirt'/></source></disk>
<disk type='network' device='disk'><source protocol='iscsi' name='iqn.2001:x/3'><host name='san'/></source></disk>
<disk type='network' device='disk'><source protocol='nbd' name='export'><host name='n' port='10810'/></source></disk>
<disk type='network'><source protocol='nbd' name='u'><host transport='unix' socket='/run/s'/></source></disk>
<disk type='network' device='disk'><source protocol='gluster' name='vol/dir/a.img'><host name='g'/></source></disk>
<disk type='network' device='disk'><source protocol='ssh' name='srv/b.img'><host name='s'/></source></disk>
<disk type='volume' device='disk'><source pool='default' volume='c.qcow2'/></disk>
<disk type='volume' device='disk'><source pool='missing' volume='d.qcow2'/></disk>
</devices></domain>
"""


@pytest.fixture
def libvirt(write: Write) -> None:
    """A host with one guest, which runs."""
    write("/etc/libvirt/qemu/web.xml", DOMAIN)
    write(
        "/etc/libvirt/storage/default.xml",
        "<pool type='dir'><name>default</name><target><path>/pool</path></target></pool>",
    )
    write("/run/libvirt/qemu/web.pid", "99")
    write("/proc/99/comm", "qemu")


@pytest.mark.usefixtures("libvirt")
@pytest.mark.parametrize(
    "location",
    ["/srv/web.qcow2", "/srv/base.qcow2", "host_device:/dev/vg/web", "rbd:vms/ns/web:mon_host=192.0.2.1",
     "iscsi://san/iqn.2001:x/3", "nbd://n:10810/export", "nbd+unix:///u?socket=/run/s", "gluster://g/vol/dir/a.img",
     "ssh://root@s/srv/b.img", "/pool/c.qcow2"],
)  # fmt: skip
def test_disks_of_every_kind_are_the_guests(root: Root, location: str) -> None:
    assert whose(location, root) == ["libvirt guest web, which runs"]


@pytest.mark.usefixtures("libvirt")
def test_a_cd_is_nobodys_for_nobody_writes_into_it(root: Root) -> None:
    assert whose("/srv/cd.iso", root) == []


def test_a_guest_that_only_runs_is_known_by_its_status(write: Write, root: Root) -> None:
    write("/run/libvirt/qemu/t.xml", "<domstatus state='running'><domain><name>t</name><devices><disk type='file'>"
          "<source file='/a'/></disk></devices></domain></domstatus>")  # fmt: skip
    assert whose("/a", root) == ["libvirt guest t, which does not run"]
    write("/run/libvirt/qemu/t.pid", "7")
    write("/proc/7/comm", "qemu")
    assert whose("/a", root) == ["libvirt guest t, which runs"]


def test_hostile_names_are_harmless(write: Write, root: Root) -> None:
    write("/etc/hostname", "pve1\n")
    write("/etc/pve/nodes/pve1/qemu-server/100.conf", "name: \x1b[31m" + "x" * 500 + "\nscsi0: /srv/a.raw\n")
    (owner,) = owners(Location.parse("/srv/a.raw")[0], root)
    assert "\x1b" not in str(owner) + owner.note
    assert len(str(owner)) < 120


# In use


@pytest.mark.usefixtures("libvirt")
def test_the_stamp_changes_when_a_guest_stops_and_owners_are_read_anew(root: Root, tmp_path: Path) -> None:
    before = stamp(root)
    (tmp_path / "run/libvirt/qemu/web.pid").unlink()
    assert stamp(root) != before
    (owner,) = Owners.read(root).of(Location.parse("/srv/web.qcow2")[0])
    assert owner.running is False


def test_a_disk_of_a_running_guest_is_not_booted_for_writing_but_as_a_snapshot(
    write: Write, root: Root, tmp_path: Path
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    outside = Root("/", str(tmp_path))
    definition = f"<domain><name>web</name><devices><disk type='file'><source file='{disk}'/></disk></devices></domain>"
    write("/.config/libvirt/qemu/web.xml", definition)
    location = Location.parse(str(disk))[0]
    engine = Engine(root=outside)
    idle = engine.prepare(location, Options(mode=Mode.WRITE))
    assert not idle.plan.refusals
    assert "It is a disk of libvirt guest web, which does not run." in idle.warning
    engine = Engine(root=_Running(str(tmp_path)))
    running = engine.prepare(location, Options(mode=Mode.WRITE))
    assert any("libvirt guest web, which runs" in refusal for refusal in running.plan.refusals)
    assert not engine.prepare(location, Options()).plan.refusals


class _Running(Root):
    """This machine, on which the guest `web` runs: its pid file cannot be laid into the real /run."""

    def __init__(self, home: str) -> None:
        super().__init__("/", home)

    def read(self, path: str) -> str:
        return "1" if path == "/run/libvirt/qemu/web.pid" else super().read(path)
