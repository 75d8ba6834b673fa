"""A folder to the Hugging Face Hub, as one commit."""

import re
from pathlib import Path

import httpx
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def check_repo(repo: str) -> None:
    """Refuse what is no id of a repository, before anything is written.

    Raises:
        ValueError: if it is none.
    """
    if not _REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is no repository on the Hub. Give its owner and its name: owner/name.")


def push(
    folder: Path, repo: str, *, private: bool = True, message: str = "A student", endpoint: str | None = None
) -> str:
    """Upload all files of a folder in one commit: the repository has all of them or none.

    The token is the one of `hf auth login` or of the variable HF_TOKEN; it is in no file, log or error.

    Args:
        folder: what to upload.
        repo: owner/name; made if it does not exist.
        private: whether a new repository is seen by its owner alone.
        message: of the commit.
        endpoint: of another server than huggingface.co.

    Returns:
        the address of the repository's page.

    Raises:
        ValueError: if `repo` is no id.
        LookupError: if there is no token, or the Hub refuses or does not answer; the folder stays.
    """
    check_repo(repo)
    token = get_token()
    if not token:
        raise LookupError(
            "There is no token for the Hub. Run `hf auth login` or set HF_TOKEN, then "
            f"`hf upload {repo} {folder}`."
        )
    api = HfApi(endpoint=endpoint, token=token, library_name="dsd")
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=message)
    except (HfHubHTTPError, httpx.HTTPError, OfflineModeIsEnabled, OSError) as error:
        text = " ".join(str(error).split()).replace(token, "[hidden]")
        # Not `from error`: its request has the token among its headers.
        raise LookupError(
            f"The Hub did not take {repo}: {text}. The folder {folder} is whole; try "
            f"`hf upload {repo} {folder}`."
        ) from None
    return str(url)
