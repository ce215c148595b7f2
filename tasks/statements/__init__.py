"""What a model says by itself of somebody about whom no facts are given."""
