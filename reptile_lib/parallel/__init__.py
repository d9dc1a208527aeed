"""Several processes, on one machine or more, as one learner."""
