// Command talker prints numbered lines and answers HTTP, for pods whose logs are read.
package main

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	name := flag.String("name", "talker", "begins each line")
	lines := flag.Int("lines", 0, "lines to print; 0: no end")
	every := flag.Duration("every", 200*time.Millisecond, "pause after a line")
	exit := flag.Int("exit", -1, "exit code once the lines are printed; negative: wait")
	listen := flag.String("listen", "", "address at which to answer HTTP")
	flag.Parse()
	if *listen != "" {
		go func() {
			err := http.ListenAndServe(*listen, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, *name) }))
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}()
	}
	for n := 1; *lines == 0 || n <= *lines; n++ {
		fmt.Printf("%s line %d\n", *name, n)
		time.Sleep(*every)
	}
	if *exit >= 0 {
		os.Exit(*exit)
	}
	time.Sleep(24 * time.Hour) // not select {}, which Go takes for a deadlock
}
