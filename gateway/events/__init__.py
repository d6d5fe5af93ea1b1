"""What users did and what was answered, recorded durably."""
