"""What is done: pure science, with one Prefect door per stage."""
