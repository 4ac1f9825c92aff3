"""What scenarios, demo and benchmarks share: a cloud, a network, a deployment, a cluster, probers and judges. See README.md."""
