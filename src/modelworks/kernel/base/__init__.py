"""What every room stands on: settings, database, migrations, ids, clock, events, telemetry, lock, guarded requests."""
