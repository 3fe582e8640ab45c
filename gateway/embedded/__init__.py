"""PostgreSQL and Valkey from wheels, for development, the demo and the tests; never for production.

Both are the real servers, under a supervisor of our own: started once for any number of processes, attached to when
they already run, stopped by the last process that leaves.
"""

from gateway.embedded.postgres import Postgres
from gateway.embedded.supervisor import EmbeddedError
from gateway.embedded.valkey import Valkey

__all__ = ["EmbeddedError", "Postgres", "Valkey"]
