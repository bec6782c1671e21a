"""`densekit train`, `resume` and `lr`: from what the user asked for to a trained run."""
