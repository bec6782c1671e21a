"""`densekit push`: a model folder and its model card to the Hugging Face Hub."""
