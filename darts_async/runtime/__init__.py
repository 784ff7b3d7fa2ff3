"""What a role's process is made of: its links, its supervisor, its files, its reward pool and ledger."""
