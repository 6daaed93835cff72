"""Data spaces at the gateway: searching them, answering from them, and OpenAI's vector stores over them."""
