"""Where prompts run. One file an upstream, all behind `worker.upstreams.upstream.Upstream`."""
