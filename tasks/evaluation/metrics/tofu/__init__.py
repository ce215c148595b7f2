"""Which of several answers it prefers, and what that says beside a model that never knew."""
