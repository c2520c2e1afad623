// Before anything is painted: the theme that was chosen here, if any. Not a module, so that it runs at once.
{
  const chosen = localStorage.getItem("sfumato.theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
