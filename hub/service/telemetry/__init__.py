"""Take in states, receipts and windows; test intervals; publish what may be shown of them."""
