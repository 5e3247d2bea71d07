"""Planning a boot: pure functions from attachments, images, options and host to steps, a script, a short -drive."""
