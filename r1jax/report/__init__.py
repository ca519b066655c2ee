"""What a finished run shows: tables, curves, transcripts and findings, on one page without a network."""
