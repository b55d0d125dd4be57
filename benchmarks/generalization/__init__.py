"""Predict the accuracy of a CNN from its weights: data, predictors, benchmark."""
