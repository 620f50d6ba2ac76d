"""`python -m scheduler_service` is `scheduler-service`."""

from scheduler_service.cli import main

if __name__ == "__main__":
    main()
