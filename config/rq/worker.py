"""`rq worker`, with two differences: it loads the code of the jobs before it is ready, and TERM loses no job."""
import os

import rq
from redis import Redis
from rq.exceptions import StopRequested

import tasks                                      # broken code never replaces workers that work


# RQ's own way to stop an idle worker interrupts it wherever it is, also when it has just taken a job off the queue.
class Worker(rq.Worker):
    def _shutdown(self):
        self._stop_requested = True


class Queue(rq.Queue):
    @classmethod
    def dequeue_any(cls, queues, timeout, **others):
        if worker._stop_requested:
            raise StopRequested
        return super().dequeue_any(queues, 1, **others)


redis = Redis.from_url(os.environ["REDIS"])
worker = Worker([Queue("default", connection=redis)], connection=redis, queue_class=Queue)
redis.ping()
tasks.tell("READY=1")
worker.work()
