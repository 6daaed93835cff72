"""`/v1/responses` and `/v1/conversations`: kept answers, over chats."""
