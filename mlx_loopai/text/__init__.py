"""Korean text without a model: Hangul, scripts, measures and the filter."""
