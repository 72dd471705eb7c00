//! One cgroup a worker, where one can be made: the only fence that no process can climb.
