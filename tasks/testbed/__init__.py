"""A small real model that knows real facts, made here, beside a gold twin that never saw some of them."""
