"""TensorBoard's own reader sees one unbroken series, whatever happened while the job trained."""
import glob
import os
import signal
import unittest

from tensorboard.backend.event_processing import event_accumulator

from cluster import Cluster, job_file, wait_for

STEPS = 40
SCALARS = ("train/loss", "train/learning_rate", "train/grad_norm", "train/tokens_per_second")


def read(cluster, job):
    """TensorBoard's view of the job's folder."""
    folder = cluster.path("coordinator", "tensorboard", job)
    view = event_accumulator.EventAccumulator(
        folder, size_guidance={event_accumulator.SCALARS: 0, event_accumulator.TENSORS: 0})
    return view.Reload()


def texts(view, tag):
    if tag not in view.Tags()["tensors"]:
        return []
    return [(event.step, event.tensor_proto.string_val[0].decode()) for event in view.Tensors(tag)]


def submit(cluster, name, **changes):
    changes = {"training__max_steps": STEPS, "training__microbatch_size": 8,
               "training__epochs": 1000, "workers__min": 1, "checkpoint__every_steps": 8, **changes}
    cluster.cli("job", "submit", "-f", job_file(cluster, name, **changes))


class Tracking(unittest.TestCase):
    def check_series(self, cluster, job):
        view = wait_for(lambda: (lambda v: v if "train/loss" in v.Tags()["scalars"]
                                 and len(v.Scalars("train/loss")) >= STEPS else None)(
                                     read(cluster, job)), "the whole series")
        recorded = cluster.cli("-o", "json", "job", "metrics", job).stdout.splitlines()
        self.assertEqual(len(recorded), STEPS)
        for tag in SCALARS:
            self.assertEqual([event.step for event in view.Scalars(tag)],
                             list(range(1, STEPS + 1)), tag)
        return view

    def test_one_series_over_another_world_size_and_a_killed_coordinator(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            first = cluster.start_worker("w1")
            cluster.start_worker("w2")
            submit(cluster, "run", workers__max=2)
            wait_for(lambda: cluster.step("run") >= 10, "step 10")
            wait_for(lambda: glob.glob(cluster.path("coordinator", "tensorboard", "run",
                                                    "events.out.tfevents.*")), "the event file")
            os.kill(first.descendants("mindforge-trainer")[0], signal.SIGKILL)
            cluster.restart_coordinator()
            wait_for(lambda: cluster.step("run") >= 16, "step 16")
            first.kill()  # goes on with one rank, or with another world size at the least
            cluster.restart_coordinator()
            cluster.wait_job("run", "SUCCEEDED")
            # What happened is drawn after the steps; the folder says when all of it is there.
            wait_for(lambda: os.path.exists(cluster.path("coordinator", "tensorboard", "run",
                                                         ".complete")), "the chart to be complete")
            view = self.check_series(cluster, "run")
            checkpoints = [step for step, _ in texts(view, "job/checkpoints")]
            self.assertEqual(checkpoints, sorted(set(checkpoints)))
            self.assertIn(STEPS, checkpoints)
            self.assertTrue(texts(view, "job/restarts"))
            sizes = [text for _, text in texts(view, "job/world_size")]
            self.assertTrue(any("1 rank instead of 2" in text for text in sizes), sizes)
            # A job's charts go with it.
            cluster.cli("job", "delete", "run")
            wait_for(lambda: not os.path.exists(cluster.path("coordinator", "tensorboard", "run")),
                     "the folder to go")

    def test_a_lost_file_is_drawn_anew(self):
        with Cluster() as cluster:
            cluster.start_coordinator()
            cluster.start_worker("w1")
            submit(cluster, "run", workers__max=1)
            cluster.wait_job("run", "SUCCEEDED")
            self.check_series(cluster, "run")
            folder = cluster.path("coordinator", "tensorboard", "run")
            cluster.coordinator.kill()
            for name in os.listdir(folder):
                os.remove(os.path.join(folder, name))
            cluster.start_coordinator(cluster.server)
            self.check_series(cluster, "run")


if __name__ == "__main__":
    unittest.main(verbosity=2)
