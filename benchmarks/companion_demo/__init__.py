"""The shipped companion on networks that it was not trained on, as a picture."""
