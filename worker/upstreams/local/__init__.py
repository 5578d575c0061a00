"""A model on this machine's own device. Only what is in this package imports torch or transformers.

From a call to its answer: `upstream` (a call) -> `prompts`, `parameters` (its token ids) -> `engine` (its thread; who
waits) -> `stepper` (what a step does, for the `rows` that `scheduling` chose) -> `steps` (the passes over `cache`, by
`attention`, `graphs` and `sampling`) -> `answers` (back to the loop) -> `writing` (text). Before that `serving` has the
checkpoint checked (`checkpoints`), planned (`memory`) and loaded (`loading`). `chatglm` converts older checkpoints.
"""
