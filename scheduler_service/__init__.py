"""A highly available cron service: one leader, every tick decided once.

Modules import only from modules above them in this order:

    clock schedule model events logs policy callables config database tables leases guard ledger
    elector context runner results workers timetable dispatcher housekeeping reloading forfeits
    service testing cli
"""

__version__ = "0.1.0"
