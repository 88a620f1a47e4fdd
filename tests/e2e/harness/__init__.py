"""What the tests share: the server under test, its clients, and what it may leave behind."""
