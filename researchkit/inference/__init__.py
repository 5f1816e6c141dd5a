"""What a difference in performance may be said to show. Pure: no storage, no network, no clock."""
