// An HTTP server that counts its answers, while 50 goroutines pass a number around.
package main

import (
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

func main() {
	const ring = 50
	var rounds, answers atomic.Int64
	first := make(chan int64)
	from := first
	for n := 0; n < ring; n++ {
		to := make(chan int64)
		go func(from, to chan int64) {
			for value := range from {
				to <- value + 1
			}
		}(from, to)
		from = to
	}
	go func() {
		for value := int64(0); ; value += ring {
			first <- value
			if got := <-from; got != value+ring {
				fmt.Println("BAD number", got, value)
			}
			rounds.Add(1)
			time.Sleep(time.Millisecond)
		}
	}()
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		before := rounds.Load()
		for rounds.Load() == before {
			time.Sleep(100 * time.Microsecond)
		}
		fmt.Fprintf(answer, "%d\n", answers.Add(1))
	})
	time.AfterFunc(100*time.Millisecond, func() { fmt.Println("ready") })
	fmt.Println(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
