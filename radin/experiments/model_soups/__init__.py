"""The published Model Soups results and ingredients, and the stand-in where they are absent."""
