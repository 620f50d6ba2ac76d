"""Random faults and random jobs from one seed, and a judge who knows what each job allows.

    plan     a seed → jobs and steps: a pure function
    driver   takes the steps on a real fleet, and writes down what was done to whom and when
    records  what is left afterwards: rows of the ledger, lines of the side effects, words of the logs
    judge    records and diary → violations
    report   figures for people and for machines
    soak     the same for an hour, with many jobs, and what it costs in memory, descriptors and disk

`python -m tests.chaos --seed 1 --minutes 5` and `python -m tests.chaos.soak --minutes 60`.
"""
