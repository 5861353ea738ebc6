//! Kubelet and Job controller for one machine: Jobs as supervised process groups.
