"""Dense depth for frames with solved poses."""
