"""Types of partitions, in few words: those of MBR by their byte, those of GPT by their GUID.

As `sfdisk --list-types` has them, and the Discoverable Partitions Specification.
"""

ESP = "EFI System"
BIOS_BOOT = "BIOS boot"

MBR_TYPES = {
    0x01: "FAT12", 0x04: "FAT16", 0x05: "Extended", 0x06: "FAT16", 0x07: "NTFS/exFAT", 0x0B: "FAT32", 0x0C: "FAT32",
    0x0E: "FAT16", 0x0F: "Extended", 0x11: "Hidden FAT12", 0x17: "Hidden NTFS", 0x27: "Windows recovery",
    0x42: "Windows LDM data", 0x82: "Linux swap", 0x83: "Linux", 0x85: "Extended", 0x8E: "Linux LVM",
    0xA5: "FreeBSD", 0xA6: "OpenBSD",
    0xA8: "Darwin UFS", 0xA9: "NetBSD", 0xAF: "HFS+", 0xBE: "Solaris boot", 0xBF: "Solaris", 0xCD: "ISO 9660",
    0xDA: "Data", 0xEA: "Linux extended boot", 0xEE: "GPT", 0xEF: ESP, 0xFB: "VMware VMFS", 0xFD: "Linux RAID",
}  # fmt: skip

GPT_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": ESP,
    "21686148-6449-6e6f-744e-656564454649": BIOS_BOOT,
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
    "44479540-f297-41b2-9af7-d131d5f0458a": "Linux root (x86)",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "Linux root (ARM-64)",
    "8484680c-9521-48c6-9c11-b0720656f69e": "Linux usr (x86-64)",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "3b8f8425-20e0-4f3b-907f-1a25a76f98e8": "Linux server data",
    "4d21b016-b534-45c2-a9fb-5c16e091fd2d": "Linux variable data",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux extended boot",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "ca7d7ccb-63ed-4c53-861c-1742536059cc": "Linux LUKS",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "83bd6b9d-7f41-11dc-be0b-001560b84f0f": "FreeBSD boot",
    "516e7cb4-6ecf-11d6-8ff8-00022d09712b": "FreeBSD",
    "516e7cb5-6ecf-11d6-8ff8-00022d09712b": "FreeBSD swap",
    "516e7cb6-6ecf-11d6-8ff8-00022d09712b": "FreeBSD UFS",
    "516e7cba-6ecf-11d6-8ff8-00022d09712b": "FreeBSD ZFS",
    "49f48d32-b10e-11dc-b99b-0019d1879648": "NetBSD swap",
    "49f48d5a-b10e-11dc-b99b-0019d1879648": "NetBSD FFS",
    "824cc7a0-36a8-11e3-890a-952519ad3f61": "OpenBSD",
    "48465300-0000-11aa-aa11-00306543ecac": "HFS+",
    "7c3457ef-0000-11aa-aa11-00306543ecac": "APFS",
    "6a898cc3-1dd2-11b2-99a6-080020736631": "ZFS",
    "fe3a2a5d-4f32-41a7-b725-accc3285a309": "ChromeOS kernel",
    "3cb8e202-3b7e-47dd-8a3c-7ff2a13cfcec": "ChromeOS root",
    "aa31e02a-400f-11db-9590-000c2911d1b8": "VMware VMFS",
    "9d275380-40ad-11db-bf97-000c2911d1b8": "VMware diagnostic",
    "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6": "Flatcar usr",
    "9e1a2d38-c612-4316-aa26-8b49521e5a8b": "PowerPC PReP",
    "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3": "Windows LDM metadata",
    "af9b60a0-1431-4f62-bc68-3311714a69ad": "Windows LDM data",
    "e75caf8f-f680-4cee-afa3-b001e56efc2d": "Windows storage spaces",
}
