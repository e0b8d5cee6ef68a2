"""What several test modules use, one topic a module."""
