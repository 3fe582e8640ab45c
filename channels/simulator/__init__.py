"""The other side of the wire: a process that plays the payment platforms, with a ledger of what was really paid."""
