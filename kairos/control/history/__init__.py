"""Historical metrics: what the shared page counts, sampled every ten seconds, kept for up to a year, and asked for.

scoreboard → Sampler → Frame → Windows (roll-ups) → Recorder → Store (database)
query or history call → plan → Store → Evaluation → answer
"""
