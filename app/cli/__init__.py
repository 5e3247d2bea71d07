"""The command line: the same engine as the Textual application's, without a screen."""
