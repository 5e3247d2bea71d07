"""Speaking iSCSI: libiscsi's sessions, the SCSI commands that are sent over them, and what their failures mean."""
