"""HTTP, as the web source needs it: connections with deadlines, answers checked, index pages read."""
