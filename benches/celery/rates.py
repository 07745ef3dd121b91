"""Measures a chain and a chord of Celery. The example `workflow_rates` runs it beside its own workflows, with the variables below.

The tasks do nothing. Acks are late and publishes confirmed, as Celery's documentation says for tasks that must not be lost; the
results are in Redis, the fastest of Celery's backends for chords.
"""

import os
import subprocess
import sys
import time

from celery import Celery, chain, chord

amqp, redis, size = os.environ["BENCH_AMQP"], os.environ["BENCH_REDIS"], int(os.environ["BENCH_SIZE"])

app = Celery("rates", broker=amqp, backend=redis)
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="celery-rates",
    worker_prefetch_multiplier=64,
    worker_hijack_root_logger=False,
)


@app.task(name="step")
def step(*_):
    return 0


def timed(workflow):
    started = time.monotonic()
    workflow.apply_async().get(timeout=1800)
    return time.monotonic() - started


def main():
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "rates", "worker", "--concurrency", str(os.cpu_count()),
         "--loglevel", "ERROR", "--without-gossip", "--without-mingle"],
        cwd=os.path.dirname(os.path.abspath(__file__)),
        env={**os.environ, "C_FORCE_ROOT": "1"},
    )
    try:
        step.delay().get(timeout=60)
        took = timed(chain(step.si() for _ in range(size)))
        print(f"celery: a chain of {size}: {size / took:.0f} steps/s", flush=True)
        took = timed(chord((step.si() for _ in range(size)), step.si()))
        print(f"celery: a group of {size} and its join: {(size + 1) / took:.0f} jobs/s, {took:.2f} s", flush=True)
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
