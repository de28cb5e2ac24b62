"""The bytes that processes exchange."""
